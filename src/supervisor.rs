//! The one event loop: feeds events to the engine and performs its actions.
