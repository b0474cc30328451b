"""Parity: proves, or disproves and says where, that an MLX port computes what its PyTorch original does."""

__version__ = "0.1.0"
