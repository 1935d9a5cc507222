//! Answers that nobody reads, and long documents, take a bounded part of memory and of the loop.
