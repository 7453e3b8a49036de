"""The demonstration: a month of real flights lands, and a small graph keeps up with it."""
