//! One HTTP/1.1 router: probes and status over TCP (read-only); the same plus verbs over the Unix socket.
