"""Operators written in plainer ones, so that nothing behind them knows them."""
