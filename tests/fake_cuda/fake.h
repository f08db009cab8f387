/* What the fake libraries share: the log, and a deliberate failure of a call. */
#include <stddef.h>

/* Writes a line: thread, call, details. */
void fake_log(const char *call, const char *format, ...);

/* The error that FAKE_CUDA_FAIL wants of this call, or 0. */
int fake_failure(const char *call);

/* Memory that is zero and stays until the process ends. */
void *fake_object(void);
