"""A content-addressed store of tensors on disk."""

from perception.data.store.store import TensorStore, feature_key

__all__ = ["TensorStore", "feature_key"]
