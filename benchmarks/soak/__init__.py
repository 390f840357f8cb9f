"""Faults and attacks at full dose: each a program that prints what held."""
