"""What stands behind the commands: each joins the parts of one corridor."""
