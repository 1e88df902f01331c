"""`jobs ui`: web pages over the store, for people on call. They need no cluster, and no script in the browser."""
