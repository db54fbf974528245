"""The commands: their settings, and the functions behind them. Private."""
