"""Curation of labelled data sets: does an image show what its label map says? (`perception score`)"""
