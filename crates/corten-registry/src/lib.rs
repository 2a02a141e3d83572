//! Distribution protocol: client and server.
