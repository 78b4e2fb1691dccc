//! What the leaker says is so: what is measured with it is worth no more than that.
