"""VPD networks over the tiny backbone."""

from vpd_fixtures import given, make_vpd, pixels

__all__ = ["given", "make_vpd", "pixels"]
