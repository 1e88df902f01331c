"""OpenAI's Batch API over the ledger: files and batches by HTTP, for clients that know no other way.

All state is in the object store (`schemas.batches`), so servers may come, go and run side by side.
"""
