"""What people who look at a run read of it while it goes on, and what they wish of it."""
