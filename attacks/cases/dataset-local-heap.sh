# A dataset with old groups, one of whose local heaps is pointed at another: libhdf5 crashes when it opens that.
. "$ATTACKS/lib.sh"
gunzip -c "$ATTACKS/files/local_heap.h5.gz" > heap.h5
refused heap.h5 steer3d info heap.h5
refused heap.h5 steer3d dataset verify heap.h5 --quiet
refused heap.h5 steer3d dataset inspect heap.h5 --quiet
refused heap.h5 steer3d train heap.h5 --epochs 1 --out run --quiet
