"""What ``yr bench`` runs: workloads, each beside the floor that physics sets in the same run.

Run it as ``python -m yr._bench [names] [--json FILE] [--quick]``. Nothing here asserts: machines are noisy, so the
report gives median, spread, floor and ratio, and says whether the bar of the design is met.

* ``workloads`` what is measured, written once against the few verbs of ``target.Target``
* ``target``    those verbs, and ``YrTarget``, which speaks them to this system (a peer brings its own target)
* ``bodies``    the code that workloads run inside workers
* ``floors``    echo, batched echo, memcpy and fork, in the same process arrangement
* ``processes`` CPU and memory of process trees, from ``/proc``
* ``report``    rounds to medians, tables for people, JSON for scripts
* ``serve``     one workload round at a time on request, so that two systems can take turns
"""
