"""What every public module stands on: the wire, memory, references and the runtime.

Nothing in here is public; :mod:`yr` re-exports what users may touch.
"""
