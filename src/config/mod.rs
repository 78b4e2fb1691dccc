//! Text to `engine::Spec`: the Procfile, TOML and `.env` formats, and every complaint about them.
