/* Runs one batch alone and then from many threads at once, each with a context of its own, and writes every result.
 *
 *   consumer MODEL uint8|float INPUT BATCH ROW_STRIDE THREADS OUTPUT [OPERATOR_LIBRARY]
 *
 * INPUT holds the raw batch; OUTPUT receives, THREADS + 1 times, float32 scores [BATCH, count] and, of a file with the
 * five best classes, int64 indices [BATCH, count]. OPERATOR_LIBRARY "" leaves it out. */
#include <lit_runtime.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
  const lit_model* model;
  const lit_tensor* input;
  char* result; /* the bytes of one run */
  size_t size;
  char error[500];
} job;

static void* run(void* argument) {
  job* const this_job = argument;
  lit_context* context = NULL;
  lit_output output;
  if (lit_context_create(this_job->model, &context) || lit_run(context, this_job->input, &output)) {
    strncpy(this_job->error, lit_last_error(), sizeof this_job->error - 1);
  } else {
    const size_t count = (size_t)(output.batch * output.count);
    this_job->size = count * (sizeof(float) + (output.classes ? sizeof(int64_t) : 0));
    this_job->result = malloc(this_job->size);
    if (this_job->result) {
      memcpy(this_job->result, output.scores, count * sizeof(float));
      if (output.classes) memcpy(this_job->result + count * sizeof(float), output.classes, count * sizeof(int64_t));
    } else {
      strcpy(this_job->error, "out of memory");
    }
  }
  lit_context_destroy(context);
  return NULL;
}

static int finish(job* finished, FILE* output) {
  int failed = finished->error[0] != '\0';
  if (failed) fprintf(stderr, "%s\n", finished->error);
  if (finished->result) failed |= fwrite(finished->result, 1, finished->size, output) != finished->size;
  free(finished->result);
  return failed;
}

static void* read_file(const char* path) {
  FILE* file = fopen(path, "rb");
  void* bytes = NULL;
  if (file) {
    if (fseek(file, 0, SEEK_END) == 0) {
      const long size = ftell(file);
      rewind(file);
      bytes = malloc(size > 0 ? (size_t)size : 1);
      if (bytes && fread(bytes, 1, (size_t)size, file) != (size_t)size) {
        free(bytes);
        bytes = NULL;
      }
    }
    fclose(file);
  }
  return bytes;
}

int main(int argc, char** argv) {
  if (argc < 8) return 2;
  const size_t threads = (size_t)atol(argv[6]);
  lit_options options;
  lit_model* model = NULL;
  if (lit_abi_version() != LIT_ABI_VERSION || lit_options_init(&options, sizeof options)) return 2;
  if (argc > 8) options.operator_library = argv[8];
  if (lit_model_open(argv[1], &options, &model)) {
    fprintf(stderr, "%s\n", lit_last_error());
    return 1;
  }
  printf("%s\n", lit_model_get_info(model)->backend);

  void* const bytes = read_file(argv[3]);
  FILE* const output = fopen(argv[7], "wb");
  job* const jobs = calloc(threads + 1, sizeof *jobs);
  pthread_t* const ids = calloc(threads + 1, sizeof *ids);
  if (!bytes || !output || !jobs || !ids) return 2;
  const lit_tensor input = {strcmp(argv[2], "float") == 0 ? LIT_FLOAT32 : LIT_UINT8, bytes, atol(argv[4]), atol(argv[5]), 0};
  int failed = 0;
  for (size_t i = 0; i <= threads; ++i) {
    jobs[i].model = model;
    jobs[i].input = &input;
  }
  run(&jobs[0]);
  failed |= finish(&jobs[0], output);
  for (size_t i = 1; i <= threads; ++i) failed |= pthread_create(&ids[i], NULL, run, &jobs[i]);
  for (size_t i = 1; i <= threads; ++i) failed |= pthread_join(ids[i], NULL) || finish(&jobs[i], output);
  failed |= fclose(output);
  lit_model_close(model);
  free(ids);
  free(jobs);
  free(bytes);
  return failed ? 1 : 0;
}
