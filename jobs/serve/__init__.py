"""OpenAI's Batch API over the ledger: files and batches over HTTP, for clients that speak only that API.

All state is in the object store (`schemas.batches`), so servers may come, go and run side by side.
"""
