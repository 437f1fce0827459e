/* lit_runtime.h: run the files that lit-deploy exports, from C.
 *
 *     lit_model* model = NULL;
 *     lit_context* context = NULL;
 *     lit_output output;
 *     lit_prediction best[5];
 *     size_t found = 0;
 *     lit_image image = {pixels, width, height, 0};
 *     if (lit_model_open("lit_s.onnx", NULL, &model) || lit_context_create(model, &context) ||
 *         lit_run_images(context, &image, 1, &output) || lit_top_k(model, &output, 0, 5, best, &found))
 *       fprintf(stderr, "%s\n", lit_last_error());
 *     for (size_t i = 0; i < found; ++i) printf("%5.1f %% %s\n", 100 * best[i].probability, best[i].label);
 *     lit_context_destroy(context);
 *     lit_model_close(model);
 *
 * Tasks. lit_model_info.task says what a file is for, and with it which function asks it: lit_run(), lit_run_images()
 * and lit_top_k() of classifiers, lit_detect() of detectors and instance segmentation networks, lit_segment() of
 * semantic segmentation networks.
 *
 * Models and contexts. A model is a loaded file: it never changes, and any number of threads may use it at once. A
 * context is what one run needs besides: buffers, and on a GPU a stream. Make one per thread; a context serves one
 * thread at a time, and several contexts of a model run side by side.
 *
 * Errors. Every function that can fail returns a lit_status and leaves one sentence for the calling thread in
 * lit_last_error(). Nothing throws, ends the process or prints, and a cancelled thread ends after the call and not in
 * it. On failure outputs are set to NULL or zero. Memory that cannot be had is LIT_OUT_OF_MEMORY; what may end the
 * process all the same is listed in docs/embedding.md.
 *
 * Ownership. What a function returns in a pointer is freed by the function that its comment names, and by nothing else.
 * Pointers to text, labels and results belong to the library; each comment says how long they are valid. Memory that
 * is passed in belongs to the caller and is not used after the call.
 *
 * Back ends. ".onnx" files run on ONNX Runtime (libonnxruntime.so, 1.18 or newer) or, where lit_options.backend asks
 * for it, on OpenVINO (2026.4 or newer; CPU), which runs ".xml" files, too; ".engine" and ".plan" files on TensorRT or
 * TensorRT-RTX. This library links none of them: lit_model_open() loads what the file needs. Looked for, in this order:
 * lit_options, an environment variable, the folder of this library, the dynamic linker's own path.
 *
 *     library                                     lit_options         environment variable
 *     libonnxruntime.so.1                         backend_library     LIT_DEPLOY_ONNXRUNTIME
 *     libopenvino_c.so                            backend_library     LIT_DEPLOY_OPENVINO
 *     libnvinfer.so.10, .11, libtensorrt_rtx.so.1 backend_library     LIT_DEPLOY_TENSORRT
 *     liblit_deploy_onnxruntime.so                operator_library    LIT_DEPLOY_LIBRARY
 *     liblit_deploy_openvino.so                   operator_library    LIT_DEPLOY_OPENVINO_EXTENSION
 *     liblit_deploy_tensorrt.so                   operator_library    LIT_DEPLOY_PLUGIN
 *
 * What is named with a slash in it is a path. A bare name goes to the dynamic linker, which looks into the current
 * folder only where an empty part of LD_LIBRARY_PATH says so.
 *
 * The operator library of ONNX Runtime may be absent: the file then runs its built-in function, more slowly. OpenVINO
 * runs no such functions: without the extension it takes files that were exported with --portable, and no others.
 * Libraries stay loaded until the process ends, as does this one. A setuid program's environment is not asked.
 *
 * Telemetry. ONNX Runtime 1.31 keeps a database of events and an identifier of the machine in the user's cache, and
 * sends them. The first lit_model_open() that needs it therefore sets ORT_DISABLE_TELEMETRY=1 in this process, unless
 * the variable is set. A program whose other threads read or change variables meanwhile sets it itself before that.
 *
 * Kinds of things are int32_t, so that they have one size for every compiler and any value can be looked at. Open
 * models in the process that uses them: threads of a back end do not survive a fork().
 */
#ifndef LIT_RUNTIME_H_
#define LIT_RUNTIME_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define LIT_API __attribute__((visibility("default")))
#else
#define LIT_API
#endif

/* The version of these declarations. It grows when a program that was compiled against older ones could no longer run
 * with the library; new functions, and new fields at the end of lit_options and lit_model_info, do not count. */
#define LIT_ABI_VERSION 1

/* What lit_abi_version() of the loaded library is; compare it with LIT_ABI_VERSION. Any thread. */
LIT_API int32_t lit_abi_version(void);

/* The library's release, for example "0.1.0". Static text. Any thread. */
LIT_API const char* lit_version(void);

/* ------------------------------------------------------------------------------------------------------- errors */

typedef int32_t lit_status;
enum {
  LIT_OK = 0,
  LIT_INVALID_ARGUMENT = 1,   /* a NULL, a size or a type that the function does not take */
  LIT_FILE_ERROR = 2,         /* a file cannot be opened or read */
  LIT_BAD_MODEL = 3,          /* damaged, not written by lit-deploy, or refused by the back end */
  LIT_NOT_SUPPORTED = 4,      /* a whole file, and a combination that this build or device does not run */
  LIT_LIBRARY_NOT_FOUND = 5,  /* a back end or plugin library is missing; the sentence names the paths searched */
  LIT_WRONG_VERSION = 6,      /* a library, a manifest or an engine is of a version that does not fit */
  LIT_NO_DEVICE = 7,          /* no GPU or driver, or another GPU than the engine was built for */
  LIT_OUT_OF_MEMORY = 8,
  LIT_RUN_FAILED = 9,         /* the back end failed while it ran */
  LIT_INTERNAL_ERROR = 10     /* a fault of this library: please report it */
};

/* "LIT_OK", "LIT_INVALID_ARGUMENT", ...; "LIT_UNKNOWN_STATUS" for other values. Static text. Any thread. */
LIT_API const char* lit_status_name(lit_status status);

/* One sentence about the last call of this thread that failed; "" before the first. Valid until this thread's next
 * failing call. Any thread. */
LIT_API const char* lit_last_error(void);

/* -------------------------------------------------------------------------------------------------------- models */

typedef struct lit_model lit_model;

typedef int32_t lit_device;
enum { LIT_CPU = 0, LIT_CUDA = 1 };

typedef int32_t lit_backend;
enum {
  LIT_BACKEND_AUTO = 0, /* ONNX Runtime for .onnx, OpenVINO for .xml, TensorRT for .engine and .plan */
  LIT_BACKEND_ONNXRUNTIME = 1,
  LIT_BACKEND_OPENVINO = 2,
  LIT_BACKEND_TENSORRT = 3 /* or TensorRT-RTX: the one that built the engine */
};

/* How to open a model. Initialise it with lit_options_init(), then change what you need. */
typedef struct lit_options {
  size_t struct_size;           /* set by lit_options_init() */
  lit_device device;            /* LIT_CPU; engines run on the GPU whatever is said here */
  int32_t device_index;         /* 0; which GPU */
  int32_t threads;              /* 0; CPU threads of one run, 0 for all cores */
  const char* backend_library;  /* NULL; path or name of libonnxruntime, libopenvino_c, ..., NULL to search */
  const char* operator_library; /* NULL; path or name of ours for the back end, NULL to search, "" to leave it out */
  int32_t allow_engine_code;    /* 0; 1 lets TensorRT run code that lies inside an engine: only for files you trust */
  int32_t cuda_graph;           /* 0; 1 replays a CUDA graph per batch size; engines only */
  lit_backend backend;          /* LIT_BACKEND_AUTO; LIT_NOT_SUPPORTED where it does not run the file */
  const char* precision_hint;   /* NULL; OpenVINO only: "bf16" or "f32" for what is not quantised, NULL for the file's
                                   own; LIT_NOT_SUPPORTED for "bf16" where the CPU does not compute in it */
} lit_options;

/* Fills in the defaults. `struct_size` is sizeof(lit_options) of the caller. Any thread. */
LIT_API lit_status lit_options_init(lit_options* options, size_t struct_size);

/* Opens an exported file.
 *   path     ".onnx"; ".xml" with its ".bin" beside it; or ".engine" / ".plan" with its sidecar "<path>.json"
 *   options  NULL for the defaults; not used after the call
 *   model    receives the model; close it with lit_model_close()
 * Every status but LIT_RUN_FAILED. Any thread. */
LIT_API lit_status lit_model_open(const char* path, const lit_options* options, lit_model** model);

/* Lets go of a model; NULL is allowed. Contexts keep what they need: closing their model first is fine. After it,
 * neither the model nor what was asked of it may be used. Any thread, once. */
LIT_API void lit_model_close(lit_model* model);

typedef int32_t lit_type;
enum {
  LIT_UINT8 = 0,  /* RGB pixels, [batch, height, width, 3] */
  LIT_FLOAT32 = 1 /* normalised, [batch, 3, height, width] */
};

typedef int32_t lit_interpolation;
enum {
  LIT_BICUBIC = 0,
  LIT_BILINEAR = 1,
  LIT_BILINEAR_OPENCV = 2 /* not antialiased, as OpenCV resizes 8 bits; of detectors and segmentation networks */
};

typedef int32_t lit_output_kind;
enum {
  LIT_LOGITS = 0,        /* one score per class, before softmax */
  LIT_PROBABILITIES = 1, /* one per class, they sum up to 1 */
  LIT_TOP5 = 2,          /* probabilities and indices of the five best classes, best first */
  LIT_RESULTS = 3,       /* of detectors and segmentation networks: boxes, boxes and masks, or labels of pixels */
  LIT_FEATURES = 4       /* the vector before a classifier's head, for an index or another network */
};

/* What a model takes, and the rule that makes it of a picture: of a classifier all of it (lit_preprocess() follows it);
 * of the other tasks what lit_prepare() follows is in lit_model_info, too. */
typedef struct lit_input_spec {
  lit_type type;                   /* of the file's own input; lit_run() takes LIT_UINT8 for every file */
  int32_t height, width;           /* pixels; 0 where a detector or segmentation network takes any */
  int32_t resize;                  /* shorter side after resizing, before the centre crop; pixels. The most that it may
                                      have, for LIT_BILINEAR_OPENCV */
  lit_interpolation interpolation; /* antialiased, but for LIT_BILINEAR_OPENCV */
  float mean[3], std[3];           /* of R, G and B, for pixels scaled to 0..1 */
} lit_input_spec;

typedef struct lit_model_info {
  size_t struct_size;      /* of the library; fields beyond it are not there */
  const char* task;        /* "classification", "detection", "instance_segmentation", "semantic_segmentation" */
  const char* name;        /* "lit_s", "custom", ... */
  const char* precision;   /* "fp32", "fp16", "bf16", "int8" or "fp8" */
  const char* backend;     /* one line: back end, version, device, and what of lit-deploy it uses */
  const char* manifest;    /* all that the file says about itself, JSON */
  lit_input_spec input;
  lit_output_kind output;
  int32_t num_classes;
  int32_t min_batch, max_batch; /* what lit_run() takes; the same twice where the batch is fixed */
  /* Of detectors and segmentation networks; 0 for classifiers. */
  int32_t longest;         /* what the longer side of a resized picture may have at most; pixels */
  int32_t max_detections;  /* most objects of a picture */
  float score_threshold;   /* objects score above it */
  int32_t mask_size;       /* rows and columns of the network's mask of an object; 0 where it gives none */
} lit_model_info;

/* What is known about a model. Valid, like all text in it, until lit_model_close(). NULL for NULL. Any thread. */
LIT_API const lit_model_info* lit_model_get_info(const lit_model* model);

/* Name of a class, UTF-8; NULL for an index outside 0..num_classes-1. Valid until lit_model_close(). Any thread. */
LIT_API const char* lit_model_label(const lit_model* model, int64_t class_index);

/* What a data set says of a class. */
typedef struct lit_category {
  const char* label;  /* as lit_model_label() */
  int64_t id;         /* its number there, for example COCO's, which have gaps */
  uint8_t colour[3];  /* R, G, B to draw it with */
} lit_category;

/* Looks a class of a detector or segmentation network up.
 * LIT_INVALID_ARGUMENT: NULL, a classifier, an index outside 0..num_classes-1. Any thread. */
LIT_API lit_status lit_model_category(const lit_model* model, int64_t class_index, lit_category* category);

/* ------------------------------------------------------------------------------------------------- preprocessing */

/* A decoded picture: 8-bit RGB, row by row. */
typedef struct lit_image {
  const uint8_t* pixels; /* `height` rows of `width` R, G, B triples */
  int32_t width, height;
  ptrdiff_t row_stride; /* bytes from one row to the next, 0 for 3 * width; negative for bottom-up pictures */
} lit_image;

/* Whether lit_preprocess() takes a picture of this size: to be asked when a decoder has read the header, before it
 * decodes a picture that would be refused.
 * LIT_INVALID_ARGUMENT: NULL, or a size that lit_preprocess() refuses. Any thread. */
LIT_API lit_status lit_check_size(const lit_input_spec* spec, int32_t width, int32_t height);

/* Resizes a picture and cuts the centre out of it, to the bit as `lit-deploy` (Pillow) does.
 *   spec    of a classifier's lit_model_get_info()
 *   pixels  receives spec->height * spec->width * 3 bytes, RGB: one image of what lit_run() takes
 * LIT_INVALID_ARGUMENT: NULL, sizes below 1, a stride too short, or a picture that has, or would have after resizing,
 * more than 2^27 pixels. LIT_OUT_OF_MEMORY. Any thread. */
LIT_API lit_status lit_preprocess(const lit_input_spec* spec, const lit_image* image, uint8_t* pixels);

/* Tells to which size lit_prepare() resizes a picture, and whether it takes one of this size: to be asked when a
 * decoder has read the header. Of any task.
 *   prepared_width, prepared_height  receive the size in pixels; of a classifier that of its lit_input_spec
 * LIT_INVALID_ARGUMENT: NULL, sizes below 1, a picture that lit_preprocess() refuses; of detectors one of more than
 * 2^26 pixels, of semantic segmentation of more than 2^24, or so narrow that less than 32 pixels would be left of a
 * side where the network needs them; of an engine any size that it was not built for. Any thread. */
LIT_API lit_status lit_prepared_size(const lit_model* model, int32_t width, int32_t height, int32_t* prepared_width,
                                     int32_t* prepared_height);

/* Makes of a picture what a model takes, to the bit as `lit-deploy` does: of a classifier as lit_preprocess(); of the
 * other tasks resized by the largest factor that `resize` and `longest` allow (to a fixed size where the file has one),
 * and not padded. lit_detect() and lit_segment() do so themselves.
 *   pixels  receives prepared_height rows of prepared_width R, G, B triples, as lit_prepared_size() tells them
 * As lit_prepared_size(), and: a stride too short. LIT_OUT_OF_MEMORY. Any thread. */
LIT_API lit_status lit_prepare(const lit_model* model, const lit_image* image, uint8_t* pixels);

/* ---------------------------------------------------------------------------------------------------------- runs */

typedef struct lit_context lit_context;

/* Makes a context of a model; destroy it with lit_context_destroy(). The context keeps the model alive.
 * LIT_INVALID_ARGUMENT, LIT_OUT_OF_MEMORY, LIT_NO_DEVICE, LIT_RUN_FAILED. Any thread. */
LIT_API lit_status lit_context_create(const lit_model* model, lit_context** context);

/* Frees a context and the outputs of its last run; NULL is allowed. Any thread, while no run is going on. */
LIT_API void lit_context_destroy(lit_context* context);

/* One sentence about a context's last run that succeeded where its result may not be all there is, "" otherwise and for
 * NULL: engines of detectors compare the best candidates alone, and tell when others might have changed the result.
 * Valid until the context's next run or end. One thread at a time per context. */
LIT_API const char* lit_context_warning(const lit_context* context);

/* A batch, in memory of the CPU. */
typedef struct lit_tensor {
  lit_type type; /* LIT_UINT8 for every model (a file of type LIT_FLOAT32 has it normalised here), or LIT_FLOAT32 */
  const void* data;
  int64_t batch;          /* images; height and width are those of the model's lit_input_spec */
  ptrdiff_t row_stride;   /* LIT_UINT8: bytes from one row of an image to the next, 0 for 3 * width */
  ptrdiff_t image_stride; /* LIT_UINT8: bytes from one image to the next, 0 for height * row_stride */
} lit_tensor;

/* Results of a run, for every image in turn. */
typedef struct lit_output {
  const float* scores;    /* [batch, count]; for LIT_FEATURES a vector of each image */
  const int64_t* classes; /* [batch, count] for LIT_TOP5, else NULL: the score's index is the class */
  int64_t batch;
  int64_t count; /* classes, or those of the best that the file returns, or the length of a vector */
} lit_output;

/* Runs a batch of prepared images and waits for it. What `output` points to belongs to the context and is valid until
 * its next run or its end.
 * LIT_INVALID_ARGUMENT: NULL, a batch outside min_batch..max_batch (or, of an engine, in a gap between its profiles), a
 * stride too short or longer than any memory (rows of one image must not
 * overlap; negative strides are taken), LIT_FLOAT32 for a file of type LIT_UINT8 or with strides. LIT_RUN_FAILED,
 * LIT_NO_DEVICE, LIT_OUT_OF_MEMORY. The context stays usable. One thread at a time per context. */
LIT_API lit_status lit_run(lit_context* context, const lit_tensor* input, lit_output* output);

/* Prepares pictures of any size with lit_preprocess() and runs them as one batch. Fewer than min_batch are filled up
 * with copies of the last; the output has `count` images all the same.
 * As lit_preprocess() and lit_run(); `count` 1..max_batch. One thread at a time per context. */
LIT_API lit_status lit_run_images(lit_context* context, const lit_image* images, size_t count, lit_output* output);

/* One class of an image. */
typedef struct lit_prediction {
  int64_t class_index;
  float probability; /* 0..1; of a file that returns logits, by softmax */
  const char* label; /* as lit_model_label() */
} lit_prediction;

/* Finds the most probable classes of one image, best first, equal ones in order of their index.
 *   model        that of the context that made `output`
 *   image        0..output->batch-1
 *   k            room in `predictions`
 *   predictions  receives up to `k` of them; `count`: how many, at most output->count
 * LIT_INVALID_ARGUMENT (also for a model of LIT_FEATURES, which name no classes), LIT_OUT_OF_MEMORY. Any thread, while
 * the output is valid. */
LIT_API lit_status lit_top_k(const lit_model* model, const lit_output* output, int64_t image, size_t k,
                             lit_prediction* predictions, size_t* count);

/* ------------------------------------------------------------------------------- detection, instance segmentation */

/* The objects of a picture, best first: those that score above the file's score_threshold. */
typedef struct lit_detections {
  const float* boxes;    /* [count, 4]: x1, y1, x2, y2 in pixels of the picture that was given */
  const float* scores;   /* [count], 0..1, descending */
  const int32_t* labels; /* [count]; for lit_model_label() and lit_model_category() */
  int64_t count;         /* 0..max_detections */
  int32_t width, height; /* of the picture that was given; pixels */
} lit_detections;

/* Prepares a picture of any size (upright: nothing is known of EXIF here), runs it and waits for it. What `detections`
 * points to belongs to the context and is valid until its next run or its end.
 * LIT_INVALID_ARGUMENT: NULL, a model of another task, a picture that lit_prepare() refuses. LIT_RUN_FAILED (also for
 * numbers that are not finite, and labels that do not exist), LIT_OUT_OF_MEMORY. The context stays usable. One
 * thread at a time per context. */
LIT_API lit_status lit_detect(lit_context* context, const lit_image* image, lit_detections* detections);

/* A picture that lit_prepare() has made, for a program that prepares pictures in other threads than it runs them. */
typedef struct lit_prepared {
  const uint8_t* pixels;                   /* `height` dense rows of `width` R, G, B triples */
  int32_t width, height;                   /* as lit_prepared_size() tells them for the original; pixels */
  int32_t original_width, original_height; /* of the picture that it was made of: where results are; pixels */
} lit_prepared;

/* lit_detect() behind its preparation; LIT_INVALID_ARGUMENT also for another size than lit_prepared_size() tells. */
LIT_API lit_status lit_detect_prepared(lit_context* context, const lit_prepared* picture, lit_detections* detections);

/* The pixels of one object: a window of the picture, outside which there are none. */
typedef struct lit_mask {
  const uint8_t* pixels;             /* [height, width]: 1 for the object's pixels, else 0 */
  int32_t left, top, width, height;  /* of the window, in pixels of the picture; width and height may be 0 */
  int64_t area;                      /* pixels of the object */
} lit_mask;

/* Pastes the mask of one object of the context's last lit_detect() into the picture. What `mask` points to belongs to
 * the context and is valid until the next mask, run or end of it: masks of a large picture are large, so that there is
 * one at a time.
 *   index  0..count-1
 * LIT_INVALID_ARGUMENT: NULL, a detector without masks, an index that no object has. LIT_OUT_OF_MEMORY. One thread at a
 * time per context. */
LIT_API lit_status lit_paste_mask(lit_context* context, int64_t index, lit_mask* mask);

/* The pixels of one object as COCO writes them into JSON: "segmentation": {"size": [height, width], "counts": ...}. */
typedef struct lit_rle {
  const char* counts;    /* compressed run lengths; ASCII, of which JSON has to escape the backslash */
  int32_t width, height; /* of the picture; pixels */
  int64_t area;          /* pixels of the object */
} lit_rle;

/* The same as run lengths, which are small. Everything else as lit_paste_mask(). */
LIT_API lit_status lit_encode_mask(lit_context* context, int64_t index, lit_rle* rle);

/* -------------------------------------------------------------------------------------------- semantic segmentation */

/* A class for every pixel of the picture that was given. */
typedef struct lit_label_map {
  const uint8_t* labels; /* [height, width]; for lit_model_label() and lit_model_category() */
  int32_t width, height; /* pixels */
} lit_label_map;

/* As lit_detect(), of a semantic segmentation network; of a file that returns logits, the best class of every pixel. */
LIT_API lit_status lit_segment(lit_context* context, const lit_image* image, lit_label_map* map);

/* Writes the pixels of one label of the context's last lit_segment() as COCO's run lengths, which belong to the context
 * and are valid until the next ones, its next run or its end. A label that no pixel has is an area of 0.
 *   label  0..num_classes-1
 * LIT_INVALID_ARGUMENT: NULL, a model of another task, another label, or no lit_segment() before. LIT_OUT_OF_MEMORY.
 * One thread at a time per context. */
LIT_API lit_status lit_encode_label(lit_context* context, int64_t label, lit_rle* rle);

/* lit_segment() behind its preparation; as lit_detect_prepared(). */
LIT_API lit_status lit_segment_prepared(lit_context* context, const lit_prepared* picture, lit_label_map* map);

#ifdef __cplusplus
}
#endif

#endif /* LIT_RUNTIME_H_ */
