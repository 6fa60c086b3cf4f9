//! Process managers: what reacts to events with commands.
