"""A dashboard in JupyterLab: two bundles side by side, measured there and then."""

from edge_lab.widgets.catalog import Catalog, Choice, catalog
from edge_lab.widgets.panel import Dashboard, dashboard

__all__ = ["Catalog", "Choice", "Dashboard", "catalog", "dashboard"]
