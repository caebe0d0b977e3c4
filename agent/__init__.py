"""The Muster agent: one daemon per host, all alike.

ARCHITECTURE.md has the map. Imports run downwards only; everything from `agent.node.core` down is pure.
"""

__version__ = "0.1.0"
