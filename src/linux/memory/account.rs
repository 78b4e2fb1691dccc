//! What each run's processes hold, without privilege and without waiting.
