"""The patients of the export clinic: small modules that a converter refuses, each beside the version that it takes.

Every file here imports torch; `edge_lab.clinic.clinic.cases()` imports them when it is called.
"""
