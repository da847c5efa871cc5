"""Embedded defaults: a synthetic catalogue, and a small generator model made on the spot."""
