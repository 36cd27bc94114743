"""Which engine for which need, and what every part found: computed from recorded runs alone. Nothing is measured here."""
