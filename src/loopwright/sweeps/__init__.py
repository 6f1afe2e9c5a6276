"""Many runs: plans, the ledger, and the launchers that start jobs on one machine or on a cluster."""
