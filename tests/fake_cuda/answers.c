/* Those calls of cuDNN and cuBLAS that hand something back; all others are generated (build_fake_cuda.py). */
#include "fake.h"
#include <string.h>

#ifdef CUDNN
size_t cudnnGetVersion(void) { return 91500; }
size_t cudnnGetCudartVersion(void) { return 13000; }
const char *cudnnGetErrorString(int error) { return "CUDNN_STATUS_EXECUTION_FAILED"; }
void cudnnGetLastErrorString(char *text, size_t bytes) { if (bytes) *text = 0; }
int cudnnGetStream(void *handle, void **stream) { *stream = NULL; return 0; }
int cudnnBackendCreateDescriptor(int kind, void **made) { *made = fake_object(); return 0; }
/* One answer to each question, and it is 0; descriptors are the caller's, and stay as they are. */
int cudnnBackendGetAttribute(void *descriptor, int name, int type, long wanted, long *count, void *answer) {
    static const size_t bytes[] = {8, 4, 1, 8, 4, 8, 8};
    if (count) *count = 1;
    if (answer && wanted > 0 && type != 15) memset(answer, 0, (size_t)type < sizeof bytes / sizeof *bytes ? bytes[type] : 4);
    return 0;
}
int cudnnBackendExecute(void *handle, void *plan, void *pack) { fake_log("cudnnBackendExecute", ""); return fake_failure("cudnnBackendExecute"); }
int cudnnGetReductionWorkspaceSize(void *handle, void *reduce, void *a, void *c, size_t *bytes) { *bytes = 0; return 0; }
int cudnnGetReductionIndicesSize(void *handle, void *reduce, void *a, void *c, size_t *bytes) { *bytes = 0; return 0; }
int cudnnGetConvolutionForwardWorkspaceSize(void *handle, void *x, void *w, void *conv, void *y, int algorithm, size_t *bytes) { *bytes = 0; return 0; }
int cudnnFindConvolutionForwardAlgorithmEx(void *handle, void *xd, void *x, void *wd, void *w, void *conv, void *yd, void *y, int wanted, int *count, void *found) {
    *count = 1;
    memset(found, 0, 48); /* cudnnConvolutionFwdAlgoPerf_t: algorithm 0, which needs no memory */
    return 0;
}
int cudnnGetConvolutionForwardAlgorithm_v7(void *handle, void *x, void *w, void *conv, void *y, int wanted, int *count, void *found) {
    *count = 1;
    memset(found, 0, 48);
    return 0;
}
#endif

#ifdef CUBLAS
const char *cublasGetStatusName(int status) { return "CUBLAS_STATUS_EXECUTION_FAILED"; }
const char *cublasGetStatusString(int status) { return "the function failed to launch on the GPU"; }
int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return 0; }
int cublasSetMathMode(void *handle, int mode) { fake_log("cublasSetMathMode", "%d", mode); return 0; }
#endif

#ifdef CUBLASLT
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *what, void *a, void *b, void *c, void *d, void *preference, int wanted, void *found, int *count) { *count = 0; return 0; }
#endif
