"""What people read: tables, listings of the plan, the state of an installation."""
