//! What is stored has a limit by party.
