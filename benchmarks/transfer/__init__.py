"""Parts of benchmarks/transfer_backbones.py: runs, data, ledger, work and table."""
