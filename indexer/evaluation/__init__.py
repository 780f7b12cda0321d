"""Measuring a face pack on labelled photos: protocol, degradations, calibration and plots.

The figures describe the photos they were measured on. Photos in advertisements are harder, so
every figure here is a best case for real work.
"""
