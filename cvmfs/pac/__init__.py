"""Proxy auto-configuration: find the script, run it, turn its answer into proxy groups."""

from cvmfs.pac.find import find_proxies, groups_from_answer

__all__ = ["find_proxies", "groups_from_answer"]
