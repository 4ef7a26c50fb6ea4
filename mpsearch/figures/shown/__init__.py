"""What each figure shows, as values: computed once, drawn by plotly for pages and by matplotlib for print."""
