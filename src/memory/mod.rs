//! The memory that uploads take: its budget, what is buffered of files, the buffers that bodies are read into.

pub mod budget;
pub mod buffer_pool;
pub mod replay_buffer;
