// Memory: large blocks for weights and caches (huge pages where the system has them), and recycled buffers for activations.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace fanlight {

// A large block, zero-filled, aligned to 64 bytes or better. Freed with the last owner.
class Block {
 public:
  explicit Block(size_t bytes);
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  void* mapping_ = nullptr;
  size_t mapping_size_ = 0;
};

// Room for weights. Matrices made one after another lie back to back in shared blocks, so that huge pages are filled; a block
// is freed when the last matrix in it is.
struct Weights {
  std::shared_ptr<Block> block;
  uint8_t* data = nullptr;
};
Weights allocate_weights(size_t bytes);

// Tells the system that these bytes of a mapped file are not needed in memory any more.
void drop_mapped_pages(const uint8_t* data, size_t bytes);

// Gives memory that was freed back to the system, where malloc keeps it.
void return_free_memory();

// An activation buffer: 64-byte aligned, content undefined, given back for reuse when it dies.
class Buffer {
 public:
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  uint8_t* data() const { return data_; }

 private:
  uint8_t* data_;
  int size_class_;
};

}  // namespace fanlight
