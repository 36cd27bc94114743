"""Would we notice? Objectives and alerts over what was measured."""
