"""What ``@yr.invoke`` and ``@yr.instance`` make of functions and classes."""
