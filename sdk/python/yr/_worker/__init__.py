"""The worker side of the SDK: what runs in the processes that host user code."""
