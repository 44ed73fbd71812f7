"""What a batch answers of each of its items."""

from guardhouse.common.v1 import errors_pb2, results_pb2
from guardhouse.errors import GuardhouseError


def item_error(of: GuardhouseError) -> results_pb2.ItemError:
    reason = errors_pb2.ErrorReason.Value(f"ERROR_REASON_{of.reason}")
    return results_pb2.ItemError(reason=reason, message=of.message)
