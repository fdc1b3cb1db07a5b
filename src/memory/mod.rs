//! The memory that uploads take: its budget, what is buffered of files, the buffers that bodies are read into, malloc.

pub mod budget;
pub mod buffer_pool;
pub mod malloc;
pub mod replay_buffer;
