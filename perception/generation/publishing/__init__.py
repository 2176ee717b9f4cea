"""Catalogue, card, licences and report of a finished data set."""
