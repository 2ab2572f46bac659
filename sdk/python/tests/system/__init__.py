"""The public interface on real clusters."""
