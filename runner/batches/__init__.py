"""What the strategy `batch_api` is made of: packing rows into files, the ledger, submitting, and collecting answers."""
