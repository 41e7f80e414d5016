"""Reports as pages that need nothing else: tables, and charts as inline SVG."""
