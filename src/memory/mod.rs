//! Memory that uploads take: its budget, the buffers that bodies are read into, the allocator's settings.

pub mod budget;
pub mod buffer_pool;
pub mod malloc;
