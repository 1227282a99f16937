"""The scheduler: plain synchronous code over plain data; time comes in, effects go out."""
