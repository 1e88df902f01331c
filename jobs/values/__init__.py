"""Lossless conversion of single values between Arrow, Python and text."""
