/* The C face of edge-lab-runner: open a bundle, prepare a picture or recording, run, read the outputs.
 *
 * Nothing is thrown across it. A function that fails returns NULL or -1 and leaves its reason, in three lines, in
 * edge_lab_last_error of the same thread. One model may be used by several threads: its runs take turns.
 * Strings are UTF-8. Tensors are raw little-endian values in C order. */
#ifndef EDGE_LAB_H
#define EDGE_LAB_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGE_LAB_ABI_VERSION 2
#if defined(__GNUC__)
#define EDGE_LAB_API __attribute__((visibility("default")))
#else
#define EDGE_LAB_API
#endif

typedef struct edge_lab_model edge_lab_model;

EDGE_LAB_API int edge_lab_abi_version(void);

/* The last failure in this thread, valid until the next one; "" if there was none. */
EDGE_LAB_API const char* edge_lab_last_error(void);

/* Opens a bundle folder, compares its checksums and loads its program. NULL: failed. The number of threads holds for
 * the whole process: all models that are open at once must ask for the same. */
EDGE_LAB_API edge_lab_model* edge_lab_open(const char* bundle, int threads);
EDGE_LAB_API void edge_lab_close(edge_lab_model* model); /* NULL is fine */

/* JSON: name, model, task, target, weights, precision, executorch, threads, softmax, top_k, labels, audio (null, or
 * sample_rate and samples), warning (null, or that the program differs from its PyTorch model and that this was allowed
 * when it was written), input and outputs (name, shape, dtype, bytes). Valid until edge_lab_close. */
EDGE_LAB_API const char* edge_lab_info(const edge_lab_model* model);

/* Turns a file (JPEG, PNG, WAV, or raw .bin) into the input; `bytes` must be the input's. 0: good. */
EDGE_LAB_API int edge_lab_preprocess_file(const edge_lab_model* model, const char* path, void* input, size_t bytes);

/* The same for 8-bit RGB pixels, height x width x 3. */
EDGE_LAB_API int edge_lab_preprocess_pixels(const edge_lab_model* model, const uint8_t* rgb, int64_t height,
                                            int64_t width, void* input, size_t bytes);

/* Runs the model on one input and copies its `count` outputs to outputs[i], which hold bytes[i] bytes. */
EDGE_LAB_API int edge_lab_run(edge_lab_model* model, const void* input, size_t input_bytes, void* const* outputs,
                              const size_t* bytes, size_t count);

/* Words in a stream of sound, for a model that takes waveforms. Not for two threads at once. */
typedef struct edge_lab_listener edge_lab_listener;
typedef struct {
  int64_t index;     /* of the label */
  const char* label; /* valid until edge_lab_listen_free */
  double probability, seconds;
} edge_lab_word;

/* For samples at `rate` Hz; 0: the model's. The model may be closed before the listener. NULL: failed. */
EDGE_LAB_API edge_lab_listener* edge_lab_listen_new(edge_lab_model* model, int rate);
EDGE_LAB_API void edge_lab_listen_free(edge_lab_listener* listener); /* NULL is fine */

/* Takes `count` samples, from -1 to 1 or 16-bit; returns how many words now wait to be fetched, or -1. */
EDGE_LAB_API int64_t edge_lab_listen_push(edge_lab_listener* listener, const float* samples, size_t count);
EDGE_LAB_API int64_t edge_lab_listen_push_int16(edge_lab_listener* listener, const int16_t* samples, size_t count);

/* No more samples come: what the resampling still holds is heard. Returns as edge_lab_listen_push. */
EDGE_LAB_API int64_t edge_lab_listen_finish(edge_lab_listener* listener);

/* Fetches the next word. 1: there was one, 0: none waits, -1: failed. */
EDGE_LAB_API int edge_lab_listen_next(edge_lab_listener* listener, edge_lab_word* word);

/* Windows that were looked at, and for how many of them the network was called. 0: good. */
EDGE_LAB_API int edge_lab_listen_effort(const edge_lab_listener* listener, int64_t* windows, int64_t* calls);

/* Without a model. The pixels of an encoded picture, upright: call with rgb NULL for the size, then with room. */
EDGE_LAB_API int edge_lab_decode_file(const char* path, uint8_t* rgb, size_t bytes, int64_t* height, int64_t* width);

/* Pixels by a "preprocess" object as in bundle.json, to `count` float32 values. */
EDGE_LAB_API int edge_lab_preprocess_recipe(const char* recipe_json, const uint8_t* rgb, int64_t height, int64_t width,
                                            float* to, size_t count);

/* Samples of a WAV file (channels averaged, at the file's rate in Hz, which goes to `rate`), at most `count` of them;
 * returns how many there are, or -1. */
EDGE_LAB_API int64_t edge_lab_read_wav(const char* path, float* samples, size_t count, int* rate);

/* A recording at another rate: at most `most` of its samples; returns how many there are, or -1. */
EDGE_LAB_API int64_t edge_lab_resample(const float* samples, size_t count, int rate, int wanted, float* to,
                                       size_t most);

/* Lower-case hex SHA-256 of a file, to `hex` with room for 65 bytes. */
EDGE_LAB_API int edge_lab_sha256_file(const char* path, char* hex);

#ifdef __cplusplus
}
#endif
#endif
