"""The public interface up to the runtime, which is recorded."""
